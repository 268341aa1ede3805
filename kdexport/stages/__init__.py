"""One file a stage: a plain function from values to a value. In order:
detect, calibrate, plan, teach, label, distil, engines, bundle, bench, cost, report.
No stage imports another; `pipeline.py` alone knows them all."""
