"""The questions: what was room X like at T, who changed what, how often, when was it public. Answers are structs."""
