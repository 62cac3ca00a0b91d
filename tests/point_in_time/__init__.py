"""Training sets: what was known at each label's moment, one row out for every row in."""
