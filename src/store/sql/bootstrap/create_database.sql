CREATE DATABASE tertulia OWNER tertulia_owner
