"""The demo: meterd, a loopback provider and an app as real processes, and a proof to the token.

__main__.py   the acts, in order            traffic.py   what the agency's clients do
stage.py      processes and their cleanup   proof.py     the provider's ledger and meterd's
screen.py     what a person sees            app.py       the app's process
"""
