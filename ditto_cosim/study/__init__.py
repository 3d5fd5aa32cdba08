# SPDX-License-Identifier: Apache-2.0
"""The papers, judged: their claims against this model of them. Sees both sides; nothing imports it but the command line."""
