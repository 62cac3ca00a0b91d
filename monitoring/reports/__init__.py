"""The drift report as one HTML file, and its charts."""
