"""The check: is what is simulated what really runs?"""
