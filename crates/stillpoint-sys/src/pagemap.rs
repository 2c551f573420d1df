//! Page tables of another task: `PAGEMAP_SCAN`, with `/proc/PID/pagemap` as the slower path.
