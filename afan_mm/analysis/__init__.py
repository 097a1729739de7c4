"""What A-FAN costs, what a run of it did, and how robust it made a model; behind the commands in
tools/analysis_tools.
"""
