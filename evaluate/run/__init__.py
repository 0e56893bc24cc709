"""Images through models in this process: loading, deployed and simulated runs, rows."""
