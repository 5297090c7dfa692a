"""The sender's side.

It holds the wire names, bodies, signatures and answers of Tencent Cloud Live, and no other room knows them.
"""
