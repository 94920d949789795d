"""REINFORCE on a contextual bandit: states are drawn on the fly, there is no data set."""

import hashlib

import torch
from torch import nn
from torch.distributions import Categorical

ARMS = 3
BATCH = 6
UPDATES = 8
accum_batches = 4


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, ARMS))

    def forward(self, state):
        return Categorical(logits=self.layers(state))


def reward(state, action):
    return (state[:, :ARMS].argmax(dim=1) == action).float() - 1 / ARMS


def policy_loss(policy, entropy_bonus=0.02):
    state = torch.randn(BATCH, 5)
    distribution = policy(state)
    action = distribution.sample()
    surrogate = distribution.log_prob(action) * reward(state, action)
    return -surrogate.mean() - entropy_bonus * distribution.entropy().mean()


torch.manual_seed(90)
policy = Policy()
optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
for _ in range(UPDATES):
    optimizer.zero_grad()
    for _ in range(accum_batches):
        loss = policy_loss(policy) / accum_batches
        loss.backward()
    optimizer.step()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in policy.parameters())).hexdigest())
