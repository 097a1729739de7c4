"""What the commands in tools/ do, for use from Python too: reading configs and data as a user names
them, and building runners.
"""
