"""Advantage actor-critic on a contextual bandit; a rollout is learnt from in slices.

--normalise standardises the advantages of each slice.
"""

import argparse
import hashlib

import torch
from torch import nn
from torch.distributions import Categorical

ROLLOUT, SLICES, UPDATES, ARMS = 64, 4, 5, 3


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
        self.pi = nn.Linear(16, ARMS)
        self.v = nn.Linear(16, 1)

    def forward(self, obs):
        h = self.body(obs)
        return Categorical(logits=self.pi(h)), self.v(h).squeeze(-1)


class Bandit:
    def __init__(self, seed):
        self.rng = torch.Generator().manual_seed(seed)
        self.best = torch.randn(4, ARMS, generator=self.rng)

    def observe(self, n):
        return torch.randn(n, 4, generator=self.rng)

    def pull(self, obs, action):
        mean = (obs @ self.best).gather(1, action[:, None]).squeeze(1)
        return mean + 0.1 * torch.randn(len(obs), generator=self.rng)


parser = argparse.ArgumentParser()
parser.add_argument("--normalise", action="store_true")
args = parser.parse_args()
torch.manual_seed(6)
env, agent = Bandit(6), ActorCritic()
optimizer = torch.optim.Adam(agent.parameters(), lr=1e-2)

for _update in range(UPDATES):
    with torch.no_grad():
        obs = env.observe(ROLLOUT)
        policy, value = agent(obs)
        action = policy.sample()
        reward = env.pull(obs, action)
        advantage = reward - value

    optimizer.zero_grad()
    for o, a, r, adv in zip(*(t.chunk(SLICES) for t in (obs, action, reward, advantage)), strict=True):
        policy, value = agent(o)
        signal = (adv - adv.mean()) / (adv.std() + 1e-8) if args.normalise else adv
        policy_loss = -(policy.log_prob(a) * signal).mean()
        value_loss = (r - value).pow(2).mean()
        entropy = policy.entropy().mean()
        loss = policy_loss + 0.5 * value_loss - 0.01 * entropy
        (loss / SLICES).backward()
    optimizer.step()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in agent.parameters())).hexdigest())
