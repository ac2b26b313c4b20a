"""A bundle over HTTP: OpenAI's protocol with the verdict in it, a plain form, and a page. In: requests; out: answers, or
abstentions.

Open first: `app.py`.
"""
