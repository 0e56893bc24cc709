"""The check: is what is simulated what really runs?

`run.run_check` judges bundles by `options.CheckOptions` and returns a `checked.Checked`, whose verdict (`verdicts.Verdict`) is
one of three words. Inside: `plan` says what is judged, `checker` holds a mirror against the deployed run and fills `result`,
`gates` and `verdicts` judge it, `kernels` and `elsewhere` tell of this and of other CPUs, `junit`, `pictures`, `tables` and
`words` show it.
"""
