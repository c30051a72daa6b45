"""Grading a class: submissions are collected, run each in its own sandbox, scored by nbgrader.

- names, collect: whose notebook a file is, in folders and in zip files of learning platforms
- assignment: the source notebook: what is graded, with the points
- inspection: a submission is refused with a message, or restored (tests, read-only cells)
- sandbox, seccomp: what a submission may see and do; runner is what runs in there
- execute, watch: the parent's side: results cell by cell, memory, processes, time
- canary: cells that must fail, so that a kernel that hides errors is noticed
- answers: open questions: answers.csv, which the instructor fills in
- score, report: nbgrader's gradebook and feedback; grades.csv, summary.md
- pipeline: all of it, for `scripts/grade.py`
"""
