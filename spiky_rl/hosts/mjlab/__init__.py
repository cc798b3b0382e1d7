"""mjlab as a host: its tasks in our commands, and our agents in its commands.

`host` is the entry; `agents` registers agents for mjlab's own command.
"""
