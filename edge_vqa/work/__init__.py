"""Files of questions: read, asked, judged, reported. In: QUESTIONS.jsonl; out: answers.jsonl, and a report with intervals.

Open first: `batch.py`.
"""
