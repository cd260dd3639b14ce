"""The embedded cluster's node: it runs each pod's containers as processes of this machine.

It stands where a kubelet stands in a real cluster: a real API server, scheduler and controllers talk to it
and see pods that start, run, report and end. What a pod may expect of it is in ``docs/local-node.md``.
"""
