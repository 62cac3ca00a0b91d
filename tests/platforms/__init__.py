"""One end-to-end suite for every platform: the checkout's own, and those in examples/."""
