# SPDX-License-Identifier: Apache-2.0
"""What several tests share: denoisers, programs, messages, the scalar instruction set, misbehaving devices and backends.

`tests/` is on the import path of pytest and of the processes that tests start, so these are `support.…` everywhere.
"""
