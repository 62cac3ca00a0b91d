"""What commands print: plans, versions, drift checks and audits, within 80 columns."""
