"""The embedded one-machine cluster: real control plane, real Prometheus, pods as processes."""
