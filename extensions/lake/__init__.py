"""The lake: copies of logs and histories in Iceberg tables, which any engine reads.

PyIceberg is an extra (``skewless[lake]``) and imported where it is used.
"""
