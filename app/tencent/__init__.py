"""The sender's side.

wire names, bodies, signatures and answers of Tencent Cloud Live. The only room that knows them.
"""
