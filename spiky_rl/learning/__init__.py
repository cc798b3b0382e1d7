"""How errors become changes of weights: rules, and the exact engines that they are checked against."""
