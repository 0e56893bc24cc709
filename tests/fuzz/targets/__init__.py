"""One module a target: `COVERED`, whose lines are counted; `seeds`, good inputs; `one`, which gives one to the door."""
