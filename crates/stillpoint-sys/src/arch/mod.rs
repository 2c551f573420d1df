//! What depends on the machine. Each architecture has a folder with the same file names and the same API.
