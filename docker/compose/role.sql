-- The role that outboxd logs in with. `outboxd init --apply` gives it what it
-- needs, and leaves a role that is there as it is.
CREATE ROLE outboxd LOGIN REPLICATION PASSWORD 'demo';
