from regplugins.report.measure import MeasurePaird, folding, mean_dice
