"""Raw data into shards: sources, normalisation or quarantine, and conversion as a resumable job."""
