DROP FUNCTION follow_registry();
DROP FUNCTION notify_registry_changed() CASCADE;
