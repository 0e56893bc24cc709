"""What every room shares: errors, whole-or-nothing files, the console, facts about the machine."""
