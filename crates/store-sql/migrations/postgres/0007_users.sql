-- The people of the console.
create table console_user (
    id             bigint primary key,
    name           text not null unique, -- in lower case
    role           bigint not null,     -- owner, developer, viewer
    application_id bigint,              -- confined to it; none reaches everything
    password       text,                 -- a PHC string; none until they chose one
    password_since bigint,
    disabled_at    bigint,
    created_at     bigint not null,
    updated_at     bigint not null
);
create index console_user_application on console_user (application_id, id) where application_id is not null;
alter table session add column user_id bigint;
create index session_of_user on session (user_id, id) where user_id is not null;
alter table audit add column user_id bigint; -- of the console, who did it
