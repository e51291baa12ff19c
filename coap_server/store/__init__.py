"""What the server keeps: releases, devices and reports in a database, images, deltas and envelopes as files."""
