"""Message encryption with KafkaCrypto: provisioning, sealing in a producer, opening in a worker.

kafkacrypto is an extra and under the GPL: nothing outside this package names it, and here it is imported only when a
node is opened or provisioned. Importing this package loads none of it.
"""
