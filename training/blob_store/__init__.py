"""Where blobs are kept: one contract (`contract`), a folder (`folder`) or a bucket (`s3`), chosen in `configured`."""
