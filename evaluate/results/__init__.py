"""Results of a study: their files, the parts they are joined from, and what is summed up of them."""
