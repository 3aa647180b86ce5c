"""Arrays that are given other chunks as their use changes: what was traced, what to change, and the change itself."""
