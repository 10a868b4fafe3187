"""The sections of report.html: each takes the report and gives its HTML, or nothing where there is nothing to show."""
