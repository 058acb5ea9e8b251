"""What a chat request costs at the gateway's server, beside a floor and beside others."""
