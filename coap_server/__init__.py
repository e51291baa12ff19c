"""The update server: publishes releases, decides who gets which, serves them over CoAP, keeps what devices report."""
