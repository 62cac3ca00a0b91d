"""What is observed while serving: Prometheus metrics, the serving log, watermark ages."""
