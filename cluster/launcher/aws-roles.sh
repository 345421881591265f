#!/usr/bin/env bash
# Makes the two instance profiles of aws.yaml: the head starts machines and passes the workers' role on; both read and
# write one bucket. Run it once, with the AWS command line logged in:
#
#   bash cluster/launcher/aws-roles.sh my-bucket us-west-2
set -euo pipefail

bucket=${1:?give the bucket of the storage}
region=${2:?give the region of aws.yaml}
account=$(aws sts get-caller-identity --query Account --output text)

trust='{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
use_bucket='{"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::'$bucket'"},
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
   "Resource": "arn:aws:s3:::'$bucket'/*"}'
start_machines='{"Effect": "Allow", "Action": "ec2:*", "Resource": "*",
   "Condition": {"StringEquals": {"aws:RequestedRegion": "'$region'"}}},
  {"Effect": "Allow", "Action": "iam:PassRole", "Resource": "arn:aws:iam::'$account':role/clray-worker"},
  {"Effect": "Allow", "Action": "ssm:GetParameters", "Resource": "arn:aws:ssm:'$region'::parameter/aws/service/*"}'

make_profile() { # name, statements
  aws iam create-role --role-name "$1" --assume-role-policy-document "$trust" > /dev/null
  aws iam put-role-policy --role-name "$1" --policy-name clray \
    --policy-document "{\"Version\": \"2012-10-17\", \"Statement\": [$2]}"
  aws iam create-instance-profile --instance-profile-name "$1" > /dev/null
  aws iam add-role-to-instance-profile --instance-profile-name "$1" --role-name "$1"
}

# Spot machines want this role once in an account; it may be there.
aws iam create-service-linked-role --aws-service-name spot.amazonaws.com > /dev/null 2>&1 || true
make_profile clray-worker "$use_bucket"
make_profile clray-head "$use_bucket, $start_machines"
