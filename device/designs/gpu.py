"""GPU: an A100 as a roofline. fp16 tensor cores at 156 TMAC/s, 1555 GB/s, 5 µs to launch a kernel, 250 W (its
data sheet; the launch time is the usual one). A command is a kernel; nothing overlaps from one to the
next."""

from ditto_cosim.device.designs.base import Design, Roofline

DESIGN = Design(
    name="gpu",
    title="GPU (A100 roofline)",
    datapath="roofline",
    multipliers=156_000,
    policy="base",
    dependency_check=False,
    power_watts=250.0,
    roofline=Roofline(macs_per_ns=156_000, bytes_per_ns=1555, launch_ns=5000, item_bytes=2),
)
