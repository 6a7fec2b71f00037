"""One program a rival, each run by its own interpreter (`make rivals`): they import nothing of penstock, only small files of this folder."""
