"""Growth of graphs from one node by a rule, and the evolution of such rules.

`dgca` grows a graph, `scoring` scores it, `evolution` searches for the rule.
"""
