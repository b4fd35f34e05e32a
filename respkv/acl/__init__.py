"""Users and what they may do: Redis's access control lists, without I/O.

`catalog` numbers the commands, `selector` is one set of rules, `user` a user with passwords and selectors, `users` all
of them as text and back, `denials` the log of what was refused. Who asks, when users change and how all nodes learn of
it is the server's business.
"""
