"""The server's CoAP resources: thin views that call services and put the answers into messages."""
