"""Documents of an invoice, each drawn from its sheet: PDF, HTML (page.py), CSV (rows.py)."""
