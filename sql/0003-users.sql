-- Lists of users by status, by role, and in the order of their names.

CREATE INDEX users_by_status ON users (status, inserted_at DESC, id DESC);
CREATE INDEX users_by_role ON users (role, inserted_at DESC, id DESC);
CREATE INDEX users_by_name ON users (full_name, id);
