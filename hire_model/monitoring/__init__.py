"""Monitoring: compare the requests of a server with the data its model was trained on.

    journal.py    the server records measurements of a sample of its scored pairs
    reference.py  the same measurements of a data set
    distances.py  PSI and Kolmogorov-Smirnov distance of two samples, and their size by chance
    drift.py      compares journal and reference, statistic by statistic, and checks the distances
    page.py       the report as one HTML file

`hire_model.workflows.monitor` runs these steps. The limits are expectation suites (expectations/suites/drift.json and
journal.json). The function that checks a suite is a parameter, as hire_model does not import great_expectations.
"""
