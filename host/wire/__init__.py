# SPDX-License-Identifier: Apache-2.0
"""The host end of the wire: the link, what a device looks like from here, and starting one."""
