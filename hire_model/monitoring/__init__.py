"""Monitoring: does the traffic of a server still look like the data that its model learned from?

    journal.py    the server records a sample of its scored pairs, as numbers
    reference.py  the same numbers for a data set
    distances.py  PSI and Kolmogorov-Smirnov distance of two samples, and how large they are by chance
    drift.py      compares journal and reference, statistic by statistic, and checks the distances
    page.py       the report as one HTML file

`hire_model.workflows.monitor` runs the steps. The limits are expectation suites (expectations/suites/drift.json and
journal.json); what checks them is passed in, as hire_model does not import great_expectations.
"""
